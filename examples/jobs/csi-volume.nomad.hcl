# A CSI volume of the plugin in csi-plugin. Nomad was told of it with nomad volume register, and this file:
#
#   type        = "csi"
#   id          = "visitors"
#   name        = "visitors"
#   external_id = "visitors" # the plugin's own name for it
#   plugin_id   = "folders"
#   capability {
#     access_mode     = "single-node-writer"
#     attachment_mode = "file-system"
#   }

variable "registry" {
  default = "http://registry.example.org"
}

job "csi-volume" {
  type = "batch"

  group "csi-volume" {
    volume "book" {
      type            = "csi"
      source          = "visitors"
      access_mode     = "single-node-writer"
      attachment_mode = "file-system"
    }

    task "visitor" {
      driver = "jail"

      volume_mount {
        volume      = "book"
        destination = "/book"
      }

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "echo $NOMAD_ALLOC_ID >> /book/visitors; cat /book/visitors"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
