# Tasks around the main one: before it, beside it, and after it.

variable "registry" {
  default = "http://registry.example.org"
}

job "lifecycle" {
  type = "batch"

  group "lifecycle" {
    task "prepare" {
      driver = "jail"

      lifecycle {
        hook = "prestart"
      }

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "echo prepare >> /alloc/data/order"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    task "beside" {
      driver = "jail"

      lifecycle {
        hook    = "prestart"
        sidecar = true
      }

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "echo > /alloc/data/beside; exec sleep 3600"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    task "main" {
      driver = "jail"

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "until [ -e /alloc/data/beside ] && [ -e /alloc/data/greeted ]; do sleep 0.1; done; echo main >> /alloc/data/order"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    task "greet" {
      driver = "jail"

      lifecycle {
        hook = "poststart"
      }

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "echo > /alloc/data/greeted"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    task "clean" {
      driver = "jail"

      lifecycle {
        hook = "poststop"
      }

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "echo clean >> /alloc/data/order; cat /alloc/data/order"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
