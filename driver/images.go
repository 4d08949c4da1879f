package driver

import (
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
)

// ImageOptions are how the plugin reaches registries and whom it trusts, for who has a store of his own.
func (c Config) ImageOptions() image.Options {
	o := imageOptions(c, hclog.NewNullLogger())
	o.LockDir, o.Logger = "", nil
	return o
}

// ImageGC is how long the plugin keeps images, and how much of them. Of a size that cannot be read there is none.
func (c Config) ImageGC() image.GCOptions {
	size, _ := c.Images.maxSize()
	return image.GCOptions{Delay: duration(c.Images.GCDelay, 72*time.Hour), MaxSize: size}
}
