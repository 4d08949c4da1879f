# A web server that Consul knows and checks, behind a port that Nomad chooses.

variable "registry" {
  description = "base URL of the images: any static HTTP server"
  default     = "http://registry.example.org"
}

job "web" {
  group "web" {
    network {
      port "http" {
        to = 8080 # the port in the jail
      }
    }

    service {
      name = "web"
      port = "http"

      check {
        type     = "http"
        path     = "/"
        interval = "2s"
        timeout  = "1s"
      }
    }

    task "server" {
      driver = "jail"

      config {
        image = "${var.registry}/web:1.0"
        ports = ["http"]
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
