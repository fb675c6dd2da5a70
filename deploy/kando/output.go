package main

import (
	"github.com/spf13/cobra"

	"thaw/activities/kando"
)

func output() *cobra.Command {
	return &cobra.Command{
		Use: "output KEY VALUE", Short: "Hand on an output of the phase", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return kando.Print(c.OutOrStdout(), args[0], args[1])
		},
	}
}
