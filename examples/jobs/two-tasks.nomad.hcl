# Two tasks of one image. Each has its own clone of it, its own processes, name and network; they share the alloc's /alloc.

variable "registry" {
  default = "http://registry.example.org"
}

job "two-tasks" {
  group "pair" {
    task "left" {
      driver = "jail"

      config {
        image    = "${var.registry}/web:1.0"
        hostname = "left"
        command  = "/bin/sh"
        args     = ["-c", "echo mine > /mine-left; sleep 3600"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    task "right" {
      driver = "jail"

      config {
        image    = "${var.registry}/web:1.0"
        hostname = "right"
        command  = "/bin/sh"
        args     = ["-c", "echo mine > /mine-right; sleep 3600"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
