# A task that wants more memory than it was given: the host kills it and Nomad says "OOM Killed".

variable "registry" {
  default = "http://registry.example.org"
}

job "memory-limit" {
  type = "batch"

  group "memory-limit" {
    restart {
      attempts = 0
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "greedy" {
      driver = "jail"

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done"]
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
