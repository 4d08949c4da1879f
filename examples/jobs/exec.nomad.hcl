# A jail to look around in: nomad alloc exec ALLOC /bin/sh

variable "registry" {
  default = "http://registry.example.org"
}

job "exec" {
  group "exec" {
    task "idle" {
      driver = "jail"
      user   = "www"

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
