# Files from the task's directory into the jail: copied into its clone, mounted, or mounted for reading only. A path of the host works where
# the operator's host_paths names it.

variable "registry" {
  default = "http://registry.example.org"
}

variable "media" {
  description = "a folder of the host"
  default     = "/srv/media"
}

job "copy-mount" {
  group "copy-mount" {
    task "server" {
      driver = "jail"

      template {
        destination = "local/www/index.html"
        data        = "<h1>copied</h1>\n"
      }

      template {
        destination = "local/data/seed"
        data        = "mounted\n"
      }

      config {
        image           = "${var.registry}/web:1.0"
        command         = "/bin/sleep"
        args            = ["3600"]
        copy            = ["local/www/index.html:/usr/local/www/index.html"]
        mount           = ["local/data:/data", "alloc/data:/shared"]
        mount_read_only = ["${var.media}:/media"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
