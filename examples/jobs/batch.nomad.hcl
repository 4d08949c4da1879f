# A batch job. Each group runs once; Nomad records how its command ended.

variable "registry" {
  default = "http://registry.example.org"
}

job "batch" {
  type = "batch"

  group "good" {
    task "good" {
      driver = "jail"

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "echo done; exit 0"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }

  group "bad" {
    restart {
      attempts = 0
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "bad" {
      driver = "jail"

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "echo oops >&2; exit 7"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
