package driver

import (
	"fmt"
	"slices"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// The rulesets of devfs.rules(5) for jails, without and with a network stack of their own, which every job may have.
const (
	devfsRulesetJail = 4
	devfsRulesetVnet = 5
)

// permitRuleset refuses a devfs ruleset that the operator has not listed.
func (c *Config) permitRuleset(n int) error {
	if n == 0 || n == devfsRulesetJail || n == devfsRulesetVnet || slices.Contains(c.DevfsRulesets, n) {
		return nil
	}
	return fmt.Errorf("devfs_ruleset %d is not allowed here; the operator allows it with devfs_rulesets = [%d] in the plugin's configuration",
		n, n)
}

// params are the jail's parameters beyond the safe defaults of the jail package.
func (p *plan) params() jail.Params {
	params := jail.Params{DevfsRuleset: p.devfsRuleset()}
	for _, permission := range p.permissions {
		if permission != hostNetwork {
			params.Allow = append(params.Allow, permission)
		}
	}
	if p.task.Securelevel >= 0 {
		params.Securelevel = &p.task.Securelevel
	}
	return params
}

func (p *plan) devfsRuleset() int {
	switch {
	case p.task.DevfsRuleset != 0:
		return p.task.DevfsRuleset
	case p.task.NetworkMode == modeHost:
		return devfsRulesetJail
	}
	return devfsRulesetVnet
}
