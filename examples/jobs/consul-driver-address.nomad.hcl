# A service at the jail's own address, without a port of the host.

variable "registry" {
  default = "http://registry.example.org"
}

job "consul-driver-address" {
  group "server" {
    task "server" {
      driver = "jail"

      config {
        image = "${var.registry}/web:1.0"
      }

      service {
        name         = "direct"
        port         = 8080
        address_mode = "driver"

        check {
          type         = "http"
          path         = "/"
          port         = 8080
          address_mode = "driver"
          interval     = "2s"
          timeout      = "1s"
        }
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
