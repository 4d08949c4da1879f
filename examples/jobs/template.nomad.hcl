# Files made from Consul's keys. When a key changes, one task gets a signal, the other runs a script.

variable "registry" {
  default = "http://registry.example.org"
}

job "template" {
  group "template" {
    task "signalled" {
      driver = "jail"

      template {
        destination   = "local/greeting"
        data          = "{{ keyOrDefault \"greeting\" \"hello\" }}\n"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        splay         = "0s"
      }

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "trap 'cat /local/greeting' HUP; echo ready; while :; do sleep 0.1; done"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    task "scripted" {
      driver = "jail"

      template {
        destination = "local/greeting"
        data        = "{{ keyOrDefault \"greeting\" \"hello\" }}\n"
        change_mode = "script"
        splay       = "0s"

        change_script {
          command       = "/bin/sh"
          args          = ["-c", "cp /local/greeting /local/seen"]
          timeout       = "10s"
          fail_on_error = true
        }
      }

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sleep"
        args    = ["3600"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
