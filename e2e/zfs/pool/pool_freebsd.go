package pool

import "errors"

func kernelHasZFS() bool { return true }

func (p *Pool) onDaemon() error { return errors.New("FreeBSD has ZFS in its kernel") }
