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

// permitRuleset refuses a devfs ruleset that the operator has not listed. What 5 shows beyond 4 is /dev/pf, which is the firewall of the
// jail's network stack: in a jail on the host's, the host's.
func (c *Config) permitRuleset(n int, networkMode string) error {
	what := fmt.Sprintf("devfs_ruleset %d", n)
	switch {
	case n == jail.DevfsRuleset || slices.Contains(c.DevfsRulesets, n):
		return nil
	case n == devfsRulesetVnet && networkMode != modeHost:
		return nil
	case n == devfsRulesetVnet:
		what += ` with network_mode "host", and so with the host's /dev/pf,`
	}
	return fmt.Errorf("%s is not allowed here; the operator allows it with devfs_rulesets = [%d] in the plugin's configuration", what, n)
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
