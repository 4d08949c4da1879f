package storage

import (
	"context"
	"io"
)

// Extract unpacks a tar archive into the folder root, which must exist, and refuses one that would leave it.
func Extract(ctx context.Context, root string, stream io.Reader) error { return extract(ctx, root, stream) }
