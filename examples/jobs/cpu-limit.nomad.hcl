# A task that never gets more than its share of the CPU, even while the host is idle.

variable "registry" {
  default = "http://registry.example.org"
}

job "cpu-limit" {
  group "cpu-limit" {
    task "busy" {
      driver = "jail"

      config {
        image          = "${var.registry}/web:1.0"
        command        = "/bin/sh"
        args           = ["-c", "while :; do :; done"]
        cpu_hard_limit = true
      }

      resources {
        cpu    = 500
        memory = 32
      }
    }
  }
}
