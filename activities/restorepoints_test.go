package activities

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/plan"
)

func TestTwoBackupsOfOneSecondAreTwoRestorePoints(t *testing.T) {
	target := plan.Target{Kind: "sqlite", Name: "/data/Shop 1.db"}
	at := time.Date(2026, 11, 30, 0, 48, 1, 5, time.UTC)
	one := restorePointID(target, at, plan.Run{Original: "01a229d4-e2ec-7c86-b539-7b0ae55dae4e"})
	require.Equal(t, "shop-1-db-20261130t004801z-e55dae4e", one)
	require.True(t, plan.ValidRestorePointID(one))
	require.Equal(t, one, restorePointID(target, at, plan.Run{RunID: "another attempt", Original: "01a229d4-e2ec-7c86-b539-7b0ae55dae4e"}))
	require.NotEqual(t, one, restorePointID(target, at, plan.Run{Original: "01a229d4-e2f0-7682-ae7b-ff17fd9e4886"}), "ids of runs begin with their time")
}
