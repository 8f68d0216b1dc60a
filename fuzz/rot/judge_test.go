package rot

import "testing"

func TestEveryEvidenceHasOneOutcome(t *testing.T) {
	for n := range 1 << 4 {
		bit := func(i int) bool { return n>>i&1 == 1 }
		var rows []Outcome
		for _, row := range outcomes {
			if row.open.matches(bit(0)) && row.wrong.matches(bit(1)) && row.said.matches(bit(2)) && row.all.matches(bit(3)) {
				rows = append(rows, row.outcome)
			}
		}
		if len(rows) != 1 {
			t.Errorf("open %v, wrong %v, said %v, all %v: %v", bit(0), bit(1), bit(2), bit(3), rows)
		}
	}
}
