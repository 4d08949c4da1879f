# A job for the pot driver, as it was written in 2019. It runs unchanged in all that its driver reads.
#
# What differs is what today's Nomad no longer parses: the task's resources held
#
#   network {
#     mbits = 10
#     port "http" {}
#   }
#
# and the port now belongs to the group. The driver's name is "jail"; with the plugin argument --driver-name=pot it would be "pot" as it was.
# The paths of the host are allowed by the operator's host_paths.

variable "registry" {
  default = "http://registry.example.org"
}

variable "web" {
  default = "/mnt/s3/web"
}

job "pot-nginx" {
  datacenters = ["*"]
  type        = "service"

  group "group1" {
    count = 1

    network {
      port "http" {}
    }

    task "www1" {
      driver = "jail"

      service {
        tags = ["pot-jail", "metrics"]
        name = "pot-example"
        port = "http"

        check {
          type     = "tcp"
          name     = "tcp"
          interval = "2s"
          timeout  = "1s"
        }
      }

      config {
        image   = "${var.registry}"
        pot     = "FBSD120-nginx"
        tag     = "1.0"
        command = "nginx -g 'daemon off;'"

        port_map = {
          http = "80"
        }

        copy = [
          "${var.web}/nginx.conf:/usr/local/etc/nginx/nginx.conf",
        ]

        mount = [
          "${var.web}/www:/mnt",
        ]
      }

      resources {
        cpu    = 200
        memory = 64
      }
    }
  }
}
