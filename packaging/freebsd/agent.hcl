# Nomad's agent on a host alone: server and client at once. A client of a cluster has server_join { retry_join = […] } instead of the server.

server {
  enabled          = true
  bootstrap_expect = 1
}

client {
  enabled = true
}
