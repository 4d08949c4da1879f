# A file that Nomad fetches for the task, and its digest.

variable "registry" {
  default = "http://registry.example.org"
}

job "artifact" {
  type = "batch"

  group "artifact" {
    task "reader" {
      driver = "jail"

      artifact {
        source      = "${var.registry}/hello.txt"
        destination = "local/fetched"

        options {
          checksum = "sha256:a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447"
        }
      }

      config {
        image   = "${var.registry}/web:1.0"
        command = "/bin/cat"
        args    = ["/local/fetched/hello.txt"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
