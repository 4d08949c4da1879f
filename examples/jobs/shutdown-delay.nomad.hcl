# A service that leaves Consul two seconds before its task is asked to stop, so that nobody is turned away.

variable "registry" {
  default = "http://registry.example.org"
}

job "shutdown-delay" {
  group "shutdown-delay" {
    network {
      port "http" {
        to = 8080
      }
    }

    task "server" {
      driver         = "jail"
      shutdown_delay = "2s"

      service {
        name = "delayed"
        port = "http"
      }

      config {
        image = "${var.registry}/web:1.0"
        ports = ["http"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
