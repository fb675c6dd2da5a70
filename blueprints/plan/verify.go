package plan

import "time"

// VerifyRequest is the input of VerifyRestorePoints: which restore points of a
// location are read back, and how much of them.
type VerifyRequest struct {
	Profile Reference `json:"profile"`
	// Target (its key, as lists show it) and Blueprint: only the restore points
	// of these. Default: all.
	Target    string `json:"target,omitempty"`
	Blueprint string `json:"blueprint,omitempty"`
	// Last is how many of each target and blueprint, the newest. Default: all.
	Last int `json:"last,omitempty"`
	// Sample is a share of the bytes, such as "5%"; others each day. Default:
	// all of them, which proves a restore point. Its record, and that nothing is
	// missing, is checked in any case.
	Sample string `json:"sample,omitempty"`
	// TaskQueue of a worker that reaches the location. Default: the run's own.
	TaskQueue   string `json:"taskQueue,omitempty"`
	RequestedBy string `json:"requestedBy,omitempty"`
}

// UnmarshalJSON implements json.Unmarshaler. It refuses fields that it does not
// know: a misspelt filter would verify something else.
func (r *VerifyRequest) UnmarshalJSON(b []byte) error {
	type plain VerifyRequest
	return strictly(b, (*plain)(r), "VerifyRestorePoints")
}

// VerifyInput asks a worker to verify.
type VerifyInput struct {
	Request VerifyRequest `json:"request"`
	Run     Run           `json:"run"`
	Time    time.Time     `json:"time"` // the day that decides the sample
}

// VerifyReport is the result of VerifyRestorePoints.
type VerifyReport struct {
	Location string     `json:"location"`
	Verified []Verified `json:"verified"`
	// Damaged are those with something wrong.
	Damaged []Verified `json:"damaged,omitempty"`
}

// Verified is what was found of one restore point.
type Verified struct {
	ID    string `json:"id"`
	Bytes int64  `json:"bytes"` // that were read
	// Proven: all of it was read, and is whole; retention always keeps the
	// newest of those.
	Proven bool   `json:"proven,omitempty"`
	Says   string `json:"says"`
}
