package cluster

import (
	"strconv"
	"text/template"
)

var functions = template.FuncMap{"quote": strconv.Quote}

var consulConfig = template.Must(template.New("consul").Funcs(functions).Parse(`{
  "server": true,
  "bootstrap": true,
  "node_name": "demo",
  "bind_addr": "127.0.0.1",
  "client_addr": "127.0.0.1{{with .Config.Bind}} {{.}}{{end}}",
  "data_dir": {{printf "%s/consul" .Config.Dir | quote}},
  "log_level": "INFO",
  "disable_update_check": true,
  "leave_on_terminate": false,
  "limits": {"http_max_conns_per_client": 10000},
  "performance": {"raft_multiplier": 1},
  "ports": {
    "http": {{.Ports.ConsulHTTP}}, "server": {{.Ports.ConsulServer}}, "serf_lan": {{.Ports.ConsulSerf}},
    "serf_wan": -1, "dns": -1, "grpc": -1, "grpc_tls": -1
  }
}
`))

// The cloud fingerprints ask addresses that a machine which is in no cloud may not answer; Nomad gives up on that.
var nomadConfig = template.Must(template.New("nomad").Funcs(functions).Parse(`
name                 = "demo"
bind_addr            = "127.0.0.1"
data_dir             = {{printf "%s/%s" .Config.Dir .Role | quote}}
plugin_dir           = {{quote .PluginDir}}
log_level            = {{quote .Config.LogLevel}}
disable_update_check = true
leave_on_interrupt   = false
leave_on_terminate   = false

ports {
  http = {{if eq .Role "client"}}{{.Ports.ClientHTTP}}{{else}}{{.Ports.NomadHTTP}}{{end}}
  rpc  = {{.Ports.NomadRPC}}
  serf = {{.Ports.NomadSerf}}
}

addresses {
  http = "127.0.0.1{{with .Config.Bind}} {{.}}{{end}}"
}

advertise {
  http = "{{or .Config.Bind "127.0.0.1"}}"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

telemetry {
  publish_allocation_metrics = true # without it there is no nomad alloc status -stats
}

limits {
  http_max_conns_per_client = 0
}

# Without it Nomad asks no driver what its tasks use.
telemetry {
  publish_allocation_metrics = true
}

consul {
  address = "127.0.0.1:{{.Ports.ConsulHTTP}}"
}
{{if ne .Role "client"}}
server {
  enabled          = true
  bootstrap_expect = 1
  raft_multiplier  = 1
  heartbeat_grace  = "5m" # on a slow machine a client that was killed takes long to come back
}
{{end}}{{if ne .Role "server"}}
client {
  enabled = true
  servers = ["127.0.0.1:{{.Ports.NomadRPC}}"]
  {{- if .Config.Interface}}
  network_interface = {{quote .Config.Interface}}
  {{- end}}
  {{.Config.ClientConfig}}
  options {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }
}

plugin "raw_exec" {
  config {
    enabled = true
  }
}
{{if .Config.Plugin}}
plugin "nomad-driver-jail" {
  {{- if .Config.PluginArgs}}
  args = [{{range .Config.PluginArgs}}{{quote .}}, {{end}}]
  {{- end}}
  config {
{{.PluginConfig}}
  }
}
{{end}}{{end}}`))
