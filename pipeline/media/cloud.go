//go:build cloud

package media

// Each registers its scheme with gocloud.dev/blob.
import (
	_ "gocloud.dev/blob/azureblob"
	_ "gocloud.dev/blob/gcsblob"
	_ "gocloud.dev/blob/s3blob"
)
