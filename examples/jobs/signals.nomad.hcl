# A task that hears signals, and takes its leave when it is asked to with the one that it likes.

variable "registry" {
  default = "http://registry.example.org"
}

job "signals" {
  group "signals" {
    task "polite" {
      driver       = "jail"
      kill_signal  = "SIGINT"
      kill_timeout = "10s"

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args = ["-c", <<-EOS
          trap 'echo got HUP' HUP
          trap 'echo goodbye | tee /alloc/data/goodbye; exit 0' INT
          echo ready
          while :; do sleep 0.1; done
        EOS
        ]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    task "stubborn" {
      driver       = "jail"
      kill_timeout = "1s"

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "trap '' TERM INT; echo ready; while :; do sleep 0.1; done"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
