package storage

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// cleanupTime is for removing what a failed step made, when its own ctx may have ended.
const cleanupTime = time.Minute

func cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
}

// retry calls f until it does not say busy: what has just ended in a dataset holds it for a moment.
func retry(ctx context.Context, f func() error) error {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := f()
		if err == nil || !isBusy(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up: %w", err)
		case <-time.After(pause):
		}
	}
}

// isBusy matches "Device busy", "dataset is busy", "pool or dataset is busy", "it's being held" and EBUSY from a system call.
func isBusy(err error) bool {
	return says(err, "busy") || says(err, "being held") || errors.Is(err, syscall.EBUSY)
}
