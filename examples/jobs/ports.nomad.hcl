# Ports of the group's network: one that Nomad chooses, mapped to another in the jail, and one that is the same on both sides. Each is open
# for TCP and UDP.

variable "registry" {
  default = "http://registry.example.org"
}

job "ports" {
  group "ports" {
    network {
      port "http" {
        to = 8080
      }

      port "echo" {}
    }

    task "server" {
      driver = "jail"

      config {
        image   = "${var.registry}/web:1.0"
        command = "/usr/local/bin/httpd"
        args    = ["-udp", ":${NOMAD_PORT_echo}"]
        ports   = ["http", "echo"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
