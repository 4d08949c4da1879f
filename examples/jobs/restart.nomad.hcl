# A task that fails twice and then runs. Every start gets a new clone of the image; what should last is in /alloc or /local.

variable "registry" {
  default = "http://registry.example.org"
}

job "restart" {
  group "restart" {
    restart {
      attempts = 3
      interval = "5m"
      delay    = "1s"
      mode     = "fail"
    }

    task "flaky" {
      driver = "jail"

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args = ["-c", <<-EOS
          printf x >> /local/starts
          read starts < /local/starts
          echo "starts: $starts; in the clone: $(echo /scratch*)"
          echo > /scratch
          case $starts in
            xxx*) sleep 3600 ;;
            *) exit 1 ;;
          esac
        EOS
        ]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
