package driver

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// devfsRulesetVnet is the ruleset of devfs.rules(5), from FreeBSD 13 on, for jails with a network stack of their own.
const devfsRulesetVnet = 5

// hostSecurelevel is the default of securelevel: the jail has the host's, whatever that is.
const hostSecurelevel = -1

// permitRuleset refuses a devfs ruleset that the operator has not listed.
func (c *Config) permitRuleset(n int) error {
	if n == jail.DevfsRuleset || n == devfsRulesetVnet || slices.Contains(c.DevfsRulesets, n) {
		return nil
	}
	return fmt.Errorf("devfs_ruleset %d is not allowed here; the operator allows it with devfs_rulesets = [%d] in the plugin's configuration",
		n, n)
}

// params are the jail's parameters beyond the safe defaults of the jail package.
func (p *plan) params() jail.Params {
	params := jail.Params{DevfsRuleset: p.devfsRuleset(), EnforceStatfs: p.pot.enforceStatfs}
	for _, permission := range slices.Concat(p.task.Allow, p.pot.permissions) {
		if permission != hostNetwork {
			params.Allow = append(params.Allow, permission)
		}
	}
	slices.Sort(params.Allow)
	params.Allow = slices.Compact(params.Allow)
	if p.task.Securelevel != hostSecurelevel {
		params.Securelevel = &p.task.Securelevel
	}
	return params
}

func (p *plan) devfsRuleset() int {
	return cmp.Or(p.pot.devfsRuleset, p.task.DevfsRuleset, jail.DevfsRuleset)
}
