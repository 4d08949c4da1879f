# Logs that Nomad rotates: of each stream the last two files of one megabyte stay.

variable "registry" {
  default = "http://registry.example.org"
}

job "logs" {
  type = "batch"

  group "logs" {
    task "talker" {
      driver = "jail"

      logs {
        max_files     = 2
        max_file_size = 1
      }

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/sh"
        args    = ["-c", "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); echo \"line $i of sixty thousand, which make some three megabytes\"; done"]
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
