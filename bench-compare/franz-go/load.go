package main

import (
	"fmt"
	"time"
)

// The same events as ../src/load.rs makes, step by step; the digest in the result shows it.

const (
	before = `{"text":"`
	after  = `"}`
	tick   = time.Millisecond
)

var words = [32]string{
	"flight", "origin", "delay", "gate", "carrier", "airport", "weather", "minutes", "cancelled", "diverted",
	"runway", "taxi", "wheels", "scheduled", "actual", "distance", "SEA", "JFK", "ORD", "ATL", "DFW", "LAX", "2026",
	"11", "26", "0", "17", "true", "false", "null", "on", "to",
}

// xorshift64*.
type random uint64

func (r *random) fiveBits() int {
	x := uint64(*r)
	x ^= x >> 12
	x ^= x << 25
	x ^= x >> 27
	*r = random(x)
	return int((x * 0x2545f4914f6cdd1d) >> 59)
}

type load struct {
	keys, values [][]byte
}

func newLoad(j job) load {
	r := random(0x9e3779b97f4a7c15)
	var l load
	for range j.keys {
		key := make([]byte, j.keySize)
		for at := range key {
			key[at] = 'A' + byte(r.fiveBits())
		}
		l.keys = append(l.keys, key)
	}
	room := max(j.size-len(before)-len(after), 0)
	for range j.values {
		var text []byte
		for len(text) < room {
			text = append(text, words[r.fiveBits()]...)
			text = append(text, ' ')
		}
		l.values = append(l.values, []byte(before+string(text[:room])+after))
	}
	return l
}

// digest is FNV-1a (64 bits) over all keys and then all values.
func (l load) digest() string {
	hash := uint64(0xcbf29ce484222325)
	for _, list := range [][][]byte{l.keys, l.values} {
		for _, bytes := range list {
			for _, b := range bytes {
				hash = (hash ^ uint64(b)) * 0x100000001b3
			}
		}
	}
	return fmt.Sprintf("%016x", hash)
}

// pace says when events are due.
type pace struct {
	began    time.Time
	interval time.Duration
	behind   time.Duration
}

func newPace(j job) pace {
	p := pace{began: time.Now()}
	if j.rate > 0 {
		p.interval = time.Duration(float64(time.Second) * float64(j.lanes) / float64(j.rate))
	}
	return p
}

// wait returns when event number n of the lane is due.
func (p *pace) wait(n uint64) {
	if p.interval == 0 {
		return
	}
	due := time.Duration(n) * p.interval
	for {
		elapsed := time.Since(p.began)
		early := due - elapsed
		if early <= tick/2 {
			p.behind = max(p.behind, -early)
			return
		}
		time.Sleep(max(early, tick))
	}
}
