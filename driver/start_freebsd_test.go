package driver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
)

// script starts a task as an operator's shell would, one command after the other: it has what the driver's start has.
// IMAGE, CLONE, ROOT, NAME, ADDRESS and ALLOC come from the environment.
const script = `set -e
zfs clone -o mountpoint="$ROOT" "$IMAGE" "$CLONE"
mount -t devfs -o ruleset=4 devfs "$ROOT/dev"
mkdir -p "$ROOT/alloc" "$ROOT/local" "$ROOT/secrets"
for folder in alloc local secrets; do mount -t nullfs "$ALLOC/$folder" "$ROOT/$folder"; done
cp /etc/resolv.conf "$ROOT/etc/resolv.conf"
echo "$ADDRESS $NAME" > "$ROOT/etc/hosts"
a=$(ifconfig epair create)
b=${a%a}b
ifconfig "$a" name "${NAME}a" up > /dev/null
ifconfig jail0 addm "${NAME}a"
jail -c name="$NAME" path="$ROOT" host.hostname="$NAME" vnet=new persist devfs_ruleset=4 enforce_statfs=2 > /dev/null
ifconfig "$b" vnet "$NAME"
jexec "$NAME" ifconfig lo0 127.0.0.1/8 up
jexec "$NAME" ifconfig "$b" "$ADDRESS/16" up
jexec "$NAME" route -q add default 10.99.0.1 > /dev/null
rctl -a "jail:$NAME:memoryuse:sigkill=64M" "jail:$NAME:maxproc:deny=2048" "jail:$NAME:nthr:deny=2048"
echo "rdr pass proto tcp to 10.0.2.15 port 20999 -> $ADDRESS port 80" | pfctl -q -a "nomad-driver-jail/$NAME" -f -
jexec "$NAME" /bin/sh -c 'echo started; exec sleep 1000' > "$ALLOC/out" 2>&1 < /dev/null &
until [ -s "$ALLOC/out" ]; do :; done
`

const unscript = `jail -r "$NAME"
sleep 0.2
ifconfig "${NAME}a" destroy
pfctl -q -a "nomad-driver-jail/$NAME" -F all
rctl -r "jail:$NAME" 2>/dev/null
for folder in alloc local secrets dev; do umount -f "$ROOT/$folder"; done
until zfs destroy "$CLONE" 2>/dev/null; do sleep 0.1; done
`

// BenchmarkStart compares StartTask, to the first process running, with a shell script that does the same, in turns. The image is
// here, the network is prepared, and another task runs that has a port: the host's forwarding process is there.
func BenchmarkStart(b *testing.B) {
	p, err := pool.Start()
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	config := DefaultConfig()
	dir := b.TempDir()
	config.Dataset, config.StateDir, config.Consul.Enabled = p.Dataset+"/jails", filepath.Join(dir, "state"), false
	d := prepared(b, config)
	images, err := d.host.Images.List(b.Context())
	if err != nil || len(images) != 1 {
		b.Fatal(images, err)
	}

	other := benchTask(b)
	if _, _, err := d.StartTask(other); err != nil {
		b.Fatal(err)
	}
	defer d.DestroyTask(other.ID, true)

	var ours, theirs []time.Duration
	for i := 0; b.Loop(); i++ {
		ours = append(ours, startByDriver(b, d))
		cfg, name := benchTask(b), fmt.Sprintf("script%d", i)
		theirs = append(theirs, startByScript(b, append(os.Environ(), "NAME="+name, fmt.Sprintf("ADDRESS=10.99.200.%d", 1+i%250),
			"ALLOC="+cfg.TaskDir().Dir, "IMAGE="+p.Dataset+"/jails/images/"+images[0].ID+"@image", "CLONE="+p.Dataset+"/"+name,
			"ROOT="+filepath.Join(dir, name))))
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	median := len(ours) / 2
	b.ReportMetric(float64(ours[median].Milliseconds()), "driver-ms")
	b.ReportMetric(float64(theirs[median].Milliseconds()), "script-ms")
	b.ReportMetric(float64(ours[median])/float64(theirs[median]), "driver/script")
}

func startByDriver(b *testing.B, d *Driver) time.Duration {
	b.Helper()
	cfg := benchTask(b)
	began := time.Now()
	_, _, err := d.StartTask(cfg)
	took := time.Since(began)
	if err != nil {
		b.Fatal(err)
	}
	if err := d.DestroyTask(cfg.ID, true); err != nil {
		b.Fatal(err)
	}
	return took
}

func startByScript(b *testing.B, env []string) time.Duration {
	b.Helper()
	began := time.Now()
	shell(b, env, script)
	took := time.Since(began)
	shell(b, env, unscript)
	return took
}

func shell(b *testing.B, env []string, text string) {
	b.Helper()
	cmd := exec.Command("/bin/sh", "-c", text)
	cmd.Env = env
	// A file, not a pipe: what the script leaves running would keep a pipe open.
	out, err := os.Create(filepath.Join(b.TempDir(), "out"))
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		b.Fatalf("%v: %s", err, strings.TrimSpace(string(said)))
	}
}

// benchTask has one port and the folders that Nomad's client makes; nobody reads its output.
func benchTask(b *testing.B) *drivers.TaskConfig {
	b.Helper()
	alloc := uuid.Generate()
	ports := structs.AllocatedPorts{{Label: "http", Value: 20000 + int(time.Now().UnixNano()%5000), To: 80}}
	cfg := &drivers.TaskConfig{
		ID: alloc + "/bench/" + uuid.Short(), AllocID: alloc, Name: "bench", AllocDir: b.TempDir(),
		Resources: &drivers.Resources{
			NomadResources: &structs.AllocatedTaskResources{
				Cpu:    structs.AllocatedCpuResources{CpuShares: 100},
				Memory: structs.AllocatedMemoryResources{MemoryMB: 64},
			},
			LinuxResources: &drivers.LinuxResources{},
			Ports:          &ports,
		},
	}
	td := cfg.TaskDir()
	for _, folder := range []string{td.SharedAllocDir, td.LocalDir, td.SecretsDir, filepath.Join(td.Dir, "alloc")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	config := TaskConfig{
		Image: testImage, Command: "/bin/sleep", Args: []string{"1000"}, NetworkMode: modeBridge, Securelevel: -1, Ports: []string{"http"},
	}
	if err := cfg.EncodeConcreteDriverConfig(&config); err != nil {
		b.Fatal(err)
	}
	return cfg
}
