package state

import (
	"hash/fnv"
	"math"
	"strconv"
	"time"
)

// RestartDelay is how long a container waits after its k-th consecutive exit (k >= 1) before it is started again:
// at once after the first, then b, doubling up to the cap, plus up to 20 % that depends on id and k alone, so
// that containers which die together do not come back together.
func RestartDelay(id ContainerID, k, backoffSeconds int) time.Duration {
	if k <= 1 {
		return 0
	}
	if backoffSeconds <= 0 {
		return MinRestartDelay
	}
	b := time.Duration(backoffSeconds) * time.Second
	return jitter(min(max(BackoffCap, b), double(b, k-2)), string(id), k)
}

// RetryDelay is how long a failed operation waits after its n-th failure in a row (n >= 1).
func RetryDelay(object string, n int) time.Duration {
	return jitter(min(RetryCap, double(RetryBase, n-1)), object, n)
}

// double returns d x 2^n without overflow.
func double(d time.Duration, n int) time.Duration {
	for ; n > 0 && d < math.MaxInt64/2; n-- {
		d *= 2
	}
	return d
}

func jitter(d time.Duration, id string, k int) time.Duration {
	h := fnv.New64a()
	h.Write([]byte(id))                    // never fails
	h.Write([]byte(strconv.Itoa(k) + "#")) // never fails
	// fnv's low bits alone are poor on short inputs: fold the halves.
	u := float64((h.Sum64()^h.Sum64()>>32)&0xffffffff) / (1 << 32)
	return d + time.Duration(0.2*u*float64(d))
}
