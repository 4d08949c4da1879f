# Who the command runs as, where, and with which environment. Standard output and error are separate logs.

variable "registry" {
  default = "http://registry.example.org"
}

job "user" {
  type = "batch"

  group "user" {
    task "user" {
      driver = "jail"
      user   = "www" # of the image's /etc/passwd

      env {
        GREETING = "hello"
      }

      config {
        image    = "${var.registry}/web:1.0"
        work_dir = "/usr/local/www"
        command  = "/bin/sh"
        args = ["-c", <<-EOS
          id -un; id -u; id -g; pwd
          echo "$GREETING from $NOMAD_TASK_NAME, home $HOME"
          echo "$NOMAD_TASK_DIR $NOMAD_SECRETS_DIR $NOMAD_ALLOC_DIR"
          echo > /alloc/data/by-www && ls -d /local /secrets /alloc
          echo "to stderr" >&2
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
