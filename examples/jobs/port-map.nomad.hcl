# The port in the jail, in the pot driver's spelling.

variable "registry" {
  default = "http://registry.example.org"
}

job "port-map" {
  group "port-map" {
    network {
      port "http" {}
    }

    task "server" {
      driver = "jail"

      config {
        image   = "${var.registry}/web:1.0"
        command = "/usr/local/bin/httpd"
        args    = ["-listen", ":80"]

        port_map {
          http = 80
        }
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
