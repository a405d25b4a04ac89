package main

import (
	"runtime"
	"sync/atomic"
)

// busy keeps every processor busy until stop is called. The loops are threads of this
// process, so that none outlives it, whatever ends it.
func busy() (stop func()) {
	n := runtime.NumCPU()
	// The rest of this process needs its turns, too.
	before := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(before + n)
	var stopped atomic.Bool
	for range n {
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the loop
			for !stopped.Load() {
			}
		}()
	}
	return func() {
		stopped.Store(true)
		runtime.GOMAXPROCS(before)
	}
}
