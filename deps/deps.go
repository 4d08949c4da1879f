
package deps
import (
_ "github.com/hashicorp/nomad/plugins"
_ "github.com/hashicorp/nomad/plugins/drivers/testutils"
_ "github.com/hashicorp/nomad/drivers/shared/eventer"
_ "github.com/hashicorp/nomad/api"
_ "github.com/hashicorp/consul/api"
_ "github.com/mistifyio/go-zfs/v4"
_ "github.com/hashicorp/go-hclog"
_ "github.com/klauspost/compress/zstd"
_ "github.com/ulikunitz/xz"
_ "github.com/vishvananda/netlink"
_ "github.com/vishvananda/netns"
_ "github.com/google/nftables"
_ "github.com/creack/pty"
_ "github.com/spf13/cobra"
_ "github.com/schollz/progressbar/v3"
_ "golang.org/x/sync/errgroup"
_ "golang.org/x/sync/singleflight"
_ "golang.org/x/sys/unix"
_ "golang.org/x/term"
)
