package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	gozfs "github.com/mistifyio/go-zfs/v4"
)

func (z *ZFS) Images(context.Context) ([]Image, error) {
	var props map[string]map[string]string
	asked := make(chan error, 1)
	go func() {
		var err error
		props, err = z.imageProps()
		asked <- err
	}()
	lines, err := zfs("list", "-Hp", "-r", "-d", "2", "-t", "filesystem,snapshot", "-o", "name,used,referenced,clones", string(z.images()))
	if err := errors.Join(err, <-asked); err != nil {
		return nil, err
	}
	byID := map[string]*Image{}
	for _, l := range lines {
		name, _ := strings.CutPrefix(l[0], string(z.images())+"/")
		id, isSnapshot := strings.CutSuffix(name, "@"+imageSnapshot)
		switch {
		case isSnapshot && byID[id] != nil:
			byID[id].Clones = z.relative(l[3])
		case props[name][propID] == name && name != "":
			image := &Image{ID: name, Props: joinProps(props[name])}
			image.Used, _ = strconv.ParseUint(l[1], 10, 64)
			image.Referenced, _ = strconv.ParseUint(l[2], 10, 64)
			byID[name] = image
		}
	}
	var images []Image
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		images = append(images, *byID[id])
	}
	return images, nil
}

// imageProps reads our properties of each image by its ID.
func (z *ZFS) imageProps() (map[string]map[string]string, error) {
	lines, err := zfs("get", "-Hp", "-r", "-d", "1", "-s", "local", "-o", "name,property,value", "all", string(z.images()))
	if err != nil {
		return nil, err
	}
	props := map[string]map[string]string{}
	for _, l := range lines {
		id, ok := strings.CutPrefix(l[0], string(z.images())+"/")
		if !ok || len(l) != 3 || !strings.HasPrefix(l[1], propPrefix) {
			continue
		}
		if props[id] == nil {
			props[id] = map[string]string{}
		}
		props[id][l[1]] = l[2]
	}
	return props, nil
}

// relative turns the property clones into names below the store.
func (z *ZFS) relative(clones string) []string {
	var names []string
	for _, c := range strings.Split(clones, ",") {
		if c != "" && c != "-" {
			names = append(names, strings.TrimPrefix(c, string(z.parent)+"/"))
		}
	}
	return names
}

func (z *ZFS) SetProp(ctx context.Context, id, key, value string) error {
	if err := errors.Join(valid("image", id), validProps(map[string]string{key: value}), ctx.Err()); err != nil {
		return err
	}
	if key == "id" {
		return fmt.Errorf("property %s: an image has it for ever", key)
	}
	return set(z.image(id), assignments(key, value))
}

// maxValue is less than the 1024 bytes that FreeBSD 12's ZFS allows a property's value. Longer ones go into several properties, KEY, KEY.1, …, all
// but the last of this length.
const maxValue = 1000

func assignments(key, value string) []string {
	var all []string
	for n := 0; ; n++ {
		chunk := value[:min(len(value), maxValue)]
		value = value[len(chunk):]
		name := propPrefix + key
		if n > 0 {
			name += "." + strconv.Itoa(n)
		}
		all = append(all, name+"="+chunk)
		if len(chunk) < maxValue {
			return all
		}
	}
}

// joinProps reverses assignments.
func joinProps(raw map[string]string) map[string]string {
	props := map[string]string{}
	for name, value := range raw {
		key := strings.TrimPrefix(name, propPrefix)
		if name == propID || strings.Contains(key, ".") {
			continue
		}
		for n, chunk := 1, value; len(chunk) == maxValue; n++ {
			chunk = raw[name+"."+strconv.Itoa(n)]
			value += chunk
		}
		props[key] = value
	}
	return props
}

func (z *ZFS) ImageRoot(_ context.Context, id string) (string, error) {
	if err := valid("image", id); err != nil {
		return "", err
	}
	root := z.path("images", id)
	z.mounting.Lock()
	defer z.mounting.Unlock()
	if checkMounted(root) == nil {
		return root, nil
	}
	err := mount(z.image(id))
	if isMissing(err) {
		return "", fmt.Errorf("image %s: %w", id, ErrNotFound)
	}
	if err == nil {
		err = checkMounted(root)
	}
	return root, err
}

func (z *ZFS) RemoveImage(ctx context.Context, id string) error {
	if err := valid("image", id); err != nil {
		return err
	}
	if err := destroy(ctx, z.image(id)); err != nil {
		if isCloned(err) {
			return fmt.Errorf("image %s: %w", id, ErrInUse)
		}
		return err
	}
	return removeDirs(z.path("images", id))
}

// Send ends with ctx as soon as w takes no more.
func (z *ZFS) Send(ctx context.Context, from, id string, w io.Writer) error {
	if err := valid("image", id); err != nil {
		return err
	}
	w = untilDone{ctx, w}
	snapshot := func(id string) *gozfs.Dataset {
		return &gozfs.Dataset{Name: z.image(id).Snapshot(imageSnapshot), Type: gozfs.DatasetSnapshot}
	}
	var err error
	if from == "" {
		err = plain(snapshot(id).SendSnapshot(w))
	} else if err = valid("image", from); err == nil {
		err = plain(snapshot(id).IncrementalSend(snapshot(from), w))
	}
	if isMissing(err) {
		return errors.Join(fmt.Errorf("image %s or %s: %w", id, from, ErrNotFound), err)
	}
	return err
}

// untilDone is a writer that fails when ctx has ended.
type untilDone struct {
	ctx context.Context
	w   io.Writer
}

func (u untilDone) Write(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.w.Write(p)
}
