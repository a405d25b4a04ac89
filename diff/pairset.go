package diff

import "math/bits"

// pairSet is a set of pairs of numbers, in one bit each: there are as many as the
// square of the workloads.
type pairSet struct {
	n    int
	bits []uint64
}

func newPairSet(n int) pairSet { return pairSet{n, make([]uint64, (n*n+63)/64)} }

func (s pairSet) add(a, b int) {
	i := a*s.n + b
	s.bits[i/64] |= 1 << (i % 64)
}

func (s pairSet) len() int {
	n := 0
	for _, word := range s.bits {
		n += bits.OnesCount64(word)
	}
	return n
}
