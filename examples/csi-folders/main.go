// Command csi-folders is a CSI node plugin whose volumes are folders: it shows what a plugin needs that runs in a jail and so mounts nothing. What it
// answers is in https://github.com/container-storage-interface/spec/blob/master/spec.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func main() {
	volumes := flag.String("volumes", "/volumes", "the job's stage_publish_base_dir")
	flag.Parse()
	log.SetFlags(0)
	if err := serve(os.Getenv("CSI_ENDPOINT"), *volumes); err != nil {
		log.Fatal("csi-folders: ", err)
	}
}

// serve takes the endpoint as Nomad gives it, "unix:///csi/csi.sock" where mount_dir is /csi.
func serve(endpoint, volumes string) error {
	socket, ok := strings.CutPrefix(endpoint, "unix://")
	if !ok {
		return fmt.Errorf("CSI_ENDPOINT is %q, want unix:// and a path", endpoint)
	}
	root, err := os.OpenRoot(volumes)
	if err != nil {
		return err
	}
	defer root.Close()
	// One that was killed left its socket.
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, identity{})
	csi.RegisterNodeServer(server, node{root: root})
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	context.AfterFunc(ctx, server.Stop)
	return server.Serve(listener)
}

type identity struct {
	csi.UnimplementedIdentityServer
}

func (identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: "folders.example.org", VendorVersion: "1.0"}, nil
}

// GetPluginCapabilities names none: there is no controller, which would create volumes and attach them to a host.
func (identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{}, nil
}

func (identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

type node struct {
	csi.UnimplementedNodeServer
	root *os.Root // paths in it that come from a request cannot leave it
}

func (node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	name, err := os.Hostname()
	return &csi.NodeGetInfoResponse{NodeId: name}, err
}

// NodeGetCapabilities names none: a volume is published in one step, without staging.
func (node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

// NodePublishVolume leads from the target to the volume's folder, which is made when it is first asked for. That the target may be for reading
// only is left to the one who mounts it in a task.
func (n node) NodePublishVolume(_ context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if req.VolumeId == "" || filepath.Base(req.VolumeId) != req.VolumeId || req.VolumeId == ".." {
		return nil, status.Errorf(codes.InvalidArgument, "volume_id %q is not the name of a folder", req.VolumeId)
	}
	target, err := n.target(req.TargetPath)
	if err != nil {
		return nil, err
	}
	folder := filepath.Join("kept", req.VolumeId)
	if err := n.root.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	// Relative, it leads to the same folder in this jail and on the host.
	link, err := filepath.Rel(filepath.Dir(target), folder)
	if err != nil {
		return nil, err
	}
	if err := n.root.Symlink(link, target); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	log.Printf("published %s at %s", req.VolumeId, req.TargetPath)
	return &csi.NodePublishVolumeResponse{}, nil
}

func (n node) NodeUnpublishVolume(_ context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	target, err := n.target(req.TargetPath)
	if err != nil {
		return nil, err
	}
	if err := n.root.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	log.Printf("took back %s from %s", req.VolumeId, req.TargetPath)
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// target is a target path's place in the root.
func (n node) target(path string) (string, error) {
	rel, err := filepath.Rel(n.root.Name(), path)
	if err != nil || !filepath.IsLocal(rel) {
		return "", status.Errorf(codes.InvalidArgument, "target_path %q is not below %s", path, n.root.Name())
	}
	return rel, nil
}
