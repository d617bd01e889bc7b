// Pause holds a pod's namespaces open: it waits for SIGTERM or SIGINT and reaps the zombies that
// a shared process namespace leaves to process 1. `-v` prints its version and ends, which kubeadm
// uses as a test job before an upgrade.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

var version = "unknown"

func main() {
	for _, argument := range os.Args[1:] {
		if strings.EqualFold(argument, "-v") {
			fmt.Println("pause " + version)
			return
		}
	}
	debug.SetGCPercent(-1)
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	reap()
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		reap()
	}
}

// One SIGCHLD may stand for several children.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}
