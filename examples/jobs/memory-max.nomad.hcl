# A task that may use more memory than is set aside for it, while there is some. Nomad's scheduler has to allow it:
# nomad operator scheduler set-config -memory-oversubscription=true

variable "registry" {
  default = "http://registry.example.org"
}

job "memory-max" {
  type = "batch"

  group "memory-max" {
    restart {
      attempts = 0
    }

    task "bursty" {
      driver = "jail"

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "x=xxxxxxxxxxxxxxxx; i=0; while [ $i -lt 20 ]; do x=$x$x; i=$((i+1)); done; echo enough"]
      }

      resources {
        cpu        = 100
        memory     = 16
        memory_max = 256
      }
    }
  }
}
