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

// layout says where in an image its root file system is.
type layout struct {
	root  string // the property
	child bool   // root is a dataset of its own, as in what pot exports
}

func (z *ZFS) Images(context.Context) ([]Image, error) {
	props, err := z.imageProps()
	if err != nil {
		return nil, err
	}
	lines, err := zfs("list", "-Hp", "-r", "-d", "3", "-t", "filesystem,snapshot", "-o", "name,used,referenced,clones", string(z.images()))
	if err != nil {
		return nil, err
	}
	byID := map[string]*Image{}
	for _, l := range lines {
		name, _ := strings.CutPrefix(l[0], string(z.images()))
		name, _, isSnapshot := strings.Cut(strings.TrimPrefix(name, "/"), "@")
		id, child, _ := strings.Cut(name, "/")
		if id == "" || props[id][propID] != id {
			continue
		}
		if byID[id] == nil {
			byID[id] = &Image{ID: id, Props: joinProps(props[id]), Root: z.path("images", id, props[id][propRoot])}
			byID[id].Used, _ = strconv.ParseUint(l[1], 10, 64)
		}
		switch {
		case isSnapshot:
			byID[id].Clones = append(byID[id].Clones, z.relative(l[3])...)
		case child == "" || child == potRoot:
			referenced, _ := strconv.ParseUint(l[2], 10, 64)
			byID[id].Referenced += referenced
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
	if key == "root" || key == "id" {
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

func (z *ZFS) ImageRoot(id string) string {
	l, err := z.layout(id)
	if err != nil {
		return z.path("images", id, "") // which does not exist
	}
	return z.path("images", id, l.root)
}

// layout reads it once: a clone should cost one command.
func (z *ZFS) layout(id string) (layout, error) {
	if l, ok := z.layouts.Load(id); ok {
		return l.(layout), nil
	}
	lines, err := zfs("list", "-H", "-r", "-d", "1", "-t", "filesystem", "-o", "name,"+propID+","+propRoot, string(z.image(id)))
	if isMissing(err) || err == nil && lines[0][1] != id {
		return layout{}, fmt.Errorf("image %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return layout{}, err
	}
	l := layout{root: strings.TrimPrefix(lines[0][2], "-"), child: len(lines) > 1}
	z.layouts.Store(id, l)
	return l, nil
}

// origin is the snapshot that an image's clones are made of, and says whether it is mounted as a task's root, or as the folder around it.
func (z *ZFS) origin(id string) (snapshot string, isRoot bool, err error) {
	l, err := z.layout(id)
	if err != nil {
		return "", false, err
	}
	d := z.image(id)
	if l.child {
		d = d.Child(potRoot)
	}
	return d.Snapshot(imageSnapshot), l.child || l.root == "", nil
}

func (z *ZFS) RemoveImage(ctx context.Context, id string) error {
	if err := valid("image", id); err != nil {
		return err
	}
	z.layouts.Delete(id)
	if err := destroy(ctx, z.image(id)); err != nil {
		if isCloned(err) {
			return fmt.Errorf("image %s: %w", id, ErrInUse)
		}
		return err
	}
	return removeDirs(z.path("images", id, ""))
}

// Send ends with ctx as soon as w takes no more.
func (z *ZFS) Send(ctx context.Context, from, id string, w io.Writer) error {
	if err := valid("image", id); err != nil {
		return err
	}
	w = untilDone{ctx, w}
	if l, err := z.layout(id); err != nil {
		return err
	} else if l.child {
		return fmt.Errorf("image %s: one of pot's, of two datasets, is not sent on; build an image from it", id)
	}
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
