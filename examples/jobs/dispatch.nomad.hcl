# A job that waits to be dispatched: nomad job dispatch -meta who=you dispatch payload.txt

variable "registry" {
  default = "http://registry.example.org"
}

job "dispatch" {
  type = "batch"

  parameterized {
    payload       = "required"
    meta_required = ["who"]
  }

  group "dispatch" {
    task "reader" {
      driver = "jail"

      dispatch_payload {
        file = "payload.txt"
      }

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "echo for $NOMAD_META_who:; cat /local/payload.txt"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
