# Nomad's agent reads this beside its other configuration.

plugin_dir = "/usr/local/libexec/nomad/plugins"

plugin "nomad-driver-jail" {
  config {
    # Images and tasks are kept below this dataset; it is made where it does not exist.
    dataset = "zroot/jails"

    # Paths of the host that jobs may copy from or mount, and file:// images may be in; ":ro" is for reading only.
    # host_paths = ["/srv/media:ro", "/srv/images:ro"]

    # Permissions that jobs may ask for.
    # allow = ["raw_sockets"]

    # Addresses of the jails. The first is the host's, on the bridge.
    # bridge  = "jail0"
    # subnet  = "10.99.0.0/16"
    # subnet6 = "fd00:99::/64"
  }
}
