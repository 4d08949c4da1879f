# A task on the host's own network stack, where the operator allows it: allow = ["host_network"]

variable "registry" {
  default = "http://registry.example.org"
}

job "host-network" {
  group "host-network" {
    network {
      port "http" {}
    }

    task "server" {
      driver = "jail"

      config {
        image        = "${var.registry}/web:1.0"
        network_mode = "host"
        command      = "/usr/local/bin/httpd"
        args         = ["-listen", ":${NOMAD_PORT_http}"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
