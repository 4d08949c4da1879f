# A task that may have few processes: what forks without end gets no further.

variable "registry" {
  default = "http://registry.example.org"
}

job "pids-limit" {
  type = "batch"

  group "pids-limit" {
    restart {
      attempts = 0
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "bomb" {
      driver = "jail"

      config {
        image      = "${var.registry}/web:1.0"
        command    = "/bin/sh"
        args       = ["-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 60 & done; echo made them all"]
        pids_limit = 6
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
