package secret

import "strings"

const (
	// pieceLength is how much of a random text is known again.
	pieceLength = 12
	// maxInPieces bounds memory: of a longer secret, such as a bundle of
	// certificates, only its lines are known.
	maxInPieces = 16 << 10
)

// learnPieces adds every piece of texts that are like no others: encoded
// secrets, and what looks random.
func (r *Redactor) learnPieces(texts []string) {
	for _, t := range texts {
		for i := 0; i+pieceLength <= len(t); i++ {
			r.pieces[[pieceLength]byte([]byte(t[i:i+pieceLength]))] = struct{}{}
		}
	}
}

// withoutPieces masks each run of pieces, over the ends of lines too (which
// Exec joins by bars).
func (r *Redactor) withoutPieces(s string) string {
	if len(r.pieces) == 0 {
		return s
	}
	var out strings.Builder
	var piece [pieceLength]byte // the last characters that are no gaps
	var at [pieceLength]int     // where each stands
	seen, told := 0, 0          // s is told up to there
	for i := range len(s) {
		switch s[i] {
		case ' ', '\t', '\r', '\n', '|':
			continue
		}
		copy(piece[:], piece[1:])
		copy(at[:], at[1:])
		piece[pieceLength-1], at[pieceLength-1] = s[i], i
		if seen++; seen < pieceLength {
			continue
		}
		if _, ok := r.pieces[piece]; !ok {
			continue
		}
		if from := at[0]; from >= told {
			out.WriteString(s[told:from])
			out.WriteString(Mask)
		}
		told = i + 1
	}
	if told == 0 {
		return s
	}
	out.WriteString(s[told:])
	return out.String()
}

// random lists the runs of letters and digits in a secret that look random:
// keys and tokens, not the words and host names of a connection string, whose
// pieces would mask what people must read.
func random(s string) (runs []string) {
	for _, run := range strings.FieldsFunc(s, func(c rune) bool { return class(c) == 0 }) {
		changes, last := 0, 0
		for _, c := range run {
			if k := class(c); k != last {
				changes, last = changes+1, k
			}
		}
		// Random hex changes between letters and digits at every second place.
		if len(run) >= pieceLength && changes*4 >= len(run) {
			runs = append(runs, run)
		}
	}
	return runs
}

func class(c rune) int {
	switch {
	case c >= 'a' && c <= 'z':
		return 1
	case c >= 'A' && c <= 'Z':
		return 2
	case c >= '0' && c <= '9':
		return 3
	}
	return 0
}
