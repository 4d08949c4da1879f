# What names mean in the jail: its own, hosts it is told of, and the name servers that it asks.

variable "registry" {
  default = "http://registry.example.org"
}

job "names" {
  type = "batch"

  group "names" {
    network {
      dns {
        servers  = ["192.0.2.53"]
        searches = ["example.org"]
      }
    }

    task "names" {
      driver = "jail"

      config {
        image       = "${var.registry}/web:1.0"
        hostname    = "nameless"
        extra_hosts = ["db.example.org:192.0.2.7"]
        command     = "/bin/sh"
        args        = ["-c", "hostname; cat /etc/hosts /etc/resolv.conf"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
