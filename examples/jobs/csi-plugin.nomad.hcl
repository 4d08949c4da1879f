# A CSI plugin, which gives jobs volumes such as that of csi-volume. In a jail nothing can be mounted for the host to see, and there are none of the
# host's devices: this works for a plugin that needs neither. The volumes of this one are folders.

variable "registry" {
  default = "http://registry.example.org"
}

job "csi-plugin" {
  type = "system" # on every client that is to have its volumes

  group "plugin" {
    task "plugin" {
      driver = "jail"

      csi_plugin {
        id                     = "folders"
        type                   = "node"     # without a controller, volumes are registered and not created
        mount_dir              = "/csi"     # where the socket goes that $CSI_ENDPOINT names
        stage_publish_base_dir = "/volumes" # where the plugin publishes volumes; it outlasts the alloc
      }

      config {
        image = "${var.registry}/csi-folders:1.0"
        args  = ["-volumes", "/volumes"]
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
