package hashdb

import "golang.org/x/sys/unix"

// adviseHuge asks for large pages: a search touches thousands of places, most of them on a page of its own.
func adviseHuge(data []byte) { _ = unix.Madvise(data, unix.MADV_HUGEPAGE) } // it works without
