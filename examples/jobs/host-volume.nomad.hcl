# A host volume of the agent's configuration: client { host_volume "media" { path = "/srv/media" read_only = true } }

variable "registry" {
  default = "http://registry.example.org"
}

job "host-volume" {
  type = "batch"

  group "host-volume" {
    volume "media" {
      type      = "host"
      source    = "media"
      read_only = true
    }

    task "reader" {
      driver = "jail"

      volume_mount {
        volume      = "media"
        destination = "/media"
        read_only   = true
      }

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "cat /media/song; echo x 2>/dev/null > /media/x || echo read-only"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
