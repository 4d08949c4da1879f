// Package driver is what Nomad sees: the configuration schemas, the fingerprint, and a task's life from StartTask to
// DestroyTask. Every RPC checks, then delegates to a package that knows the host and nothing of Nomad: image, storage,
// network, jail, rctl, health.
package driver

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/client/lib/cpustats"
	"github.com/hashicorp/nomad/drivers/shared/eventer"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
)

const (
	// DefaultName is the name under which the driver registers unless --driver-name says otherwise.
	DefaultName = "jail"

	// handleVersion is the version of the TaskState in Nomad's task handle.
	handleVersion = 1
)

// Version is the plugin's version, set by the linker.
var Version = "0.1.0-dev"

// Driver is the task driver. It implements drivers.DriverPlugin and drivers.ExecTaskStreamingDriver.
type Driver struct {
	name   string
	ctx    context.Context
	logger hclog.Logger
	events *eventer.Eventer

	// Set once, by SetConfig.
	host    *Host
	config  Config
	compute cpustats.Compute

	started time.Time
	begin   sync.Once // what runs beside Nomad's calls

	mu    sync.RWMutex
	tasks map[string]*task
}

// New makes a driver that registers under name. What it starts in the background ends with ctx; the tasks do not.
func New(ctx context.Context, name string, logger hclog.Logger) *Driver {
	logger = logger.Named(name)
	return &Driver{
		name:    name,
		ctx:     ctx,
		logger:  logger,
		events:  eventer.NewEventer(ctx, logger),
		started: time.Now(),
		tasks:   make(map[string]*task),
	}
}

// PluginInfo implements base.BasePlugin.
func (d *Driver) PluginInfo() (*base.PluginInfoResponse, error) {
	return &base.PluginInfoResponse{
		Type:              base.PluginTypeDriver,
		PluginApiVersions: []string{drivers.ApiVersion010},
		PluginVersion:     Version,
		Name:              d.name,
	}, nil
}

// ConfigSchema implements base.BasePlugin.
func (d *Driver) ConfigSchema() (*hclspec.Spec, error) { return configSpec, nil }

// TaskConfigSchema implements drivers.DriverPlugin.
func (d *Driver) TaskConfigSchema() (*hclspec.Spec, error) { return taskConfigSpec, nil }

// SetConfig implements base.BasePlugin. Nomad also calls it, with no configuration, on a plugin that it only inspects.
func (d *Driver) SetConfig(c *base.Config) error {
	var config Config
	if len(c.PluginConfig) != 0 {
		if err := base.MsgPackDecode(c.PluginConfig, &config); err != nil {
			return fmt.Errorf("plugin configuration: %w", err)
		}
	}
	if err := config.check(); err != nil {
		return fmt.Errorf("plugin configuration: %w", err)
	}
	host, err := NewHost(config, d.logger)
	if err != nil {
		return err
	}
	d.config = config
	d.host = host
	d.compute = c.AgentConfig.Compute()
	return nil
}

// Capabilities implements drivers.DriverPlugin.
func (d *Driver) Capabilities() (*drivers.Capabilities, error) {
	return &drivers.Capabilities{
		SendSignals:       true,
		Exec:              true,
		FSIsolation:       fsisolation.Image,
		NetIsolationModes: netIsolationModes,
		MountConfigs:      drivers.MountConfigSupportAll,
	}, nil
}

// TaskEvents implements drivers.DriverPlugin.
func (d *Driver) TaskEvents(ctx context.Context) (<-chan *drivers.TaskEvent, error) {
	return d.events.TaskEvents(ctx)
}

// emit tells whoever follows the task what it is waiting for.
func (d *Driver) emit(cfg *drivers.TaskConfig, message string, annotations map[string]string) {
	err := d.events.EmitEvent(&drivers.TaskEvent{
		TaskID:      cfg.ID,
		TaskName:    cfg.Name,
		AllocID:     cfg.AllocID,
		Timestamp:   time.Now(),
		Message:     message,
		Annotations: annotations,
	})
	if err != nil {
		d.logger.Warn("task event not delivered", "task_id", cfg.ID, "message", message, "error", err)
	}
}

func (d *Driver) task(id string) (*task, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	t, ok := d.tasks[id]
	if !ok {
		return nil, drivers.ErrTaskNotFound
	}
	return t, nil
}
