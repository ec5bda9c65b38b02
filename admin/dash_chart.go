package admin

import (
	"fmt"
	"strings"
	"time"
)

const (
	chartWidth  = 320
	chartHeight = 72
	// chartGap is how long nothing may have been sampled before the line breaks.
	chartGap = 3 * sampleEvery
)

// chart is a line over the last hour.
type chart struct {
	Title, Unit string
	Now, Most   float64
	Line        string // an SVG path
	Area        string
	Empty       bool
}

func newCharts(samples []sample, now time.Time) []chart {
	of := func(title, unit string, value func(*sample) float64) chart {
		return newChart(title, unit, samples, now, value)
	}
	return []chart{
		of("Taken from nodes", "records/s", func(s *sample) float64 { return s.stored }),
		of("Taken from pillars", "entries/s", func(s *sample) float64 { return s.replicated }),
		of("Delivered", "records/s", func(s *sample) float64 { return s.delivered }),
		of("Backlog", "entries", func(s *sample) float64 { return s.backlog }),
	}
}

func newChart(title, unit string, samples []sample, now time.Time, value func(*sample) float64) chart {
	c := chart{Title: title, Unit: unit, Empty: len(samples) == 0}
	for i := range samples {
		c.Most = max(c.Most, value(&samples[i]))
	}
	const span = samplesKept * sampleEvery
	x := func(at time.Time) float64 {
		return max(0, chartWidth*(1-float64(now.Sub(at))/float64(span)))
	}
	y := func(v float64) float64 {
		if c.Most == 0 {
			return chartHeight - 2
		}
		return chartHeight - 2 - v/c.Most*(chartHeight-8)
	}
	var line, area strings.Builder
	for i := range samples {
		s := &samples[i]
		v := value(s)
		c.Now = v
		px, py := x(s.at), y(v)
		if i == 0 || s.at.Sub(samples[i-1].at) > chartGap {
			if i > 0 {
				fmt.Fprintf(&area, "V%d Z", chartHeight)
			}
			start := x(s.at.Add(-sampleEvery)) // a sample speaks of the time before it
			fmt.Fprintf(&line, "M%.1f %.1f", start, py)
			fmt.Fprintf(&area, "M%.1f %d V%.1f", start, chartHeight, py)
		}
		fmt.Fprintf(&line, "L%.1f %.1f", px, py)
		fmt.Fprintf(&area, "L%.1f %.1f", px, py)
	}
	if len(samples) > 0 {
		fmt.Fprintf(&area, "V%d Z", chartHeight)
	}
	c.Line, c.Area = line.String(), area.String()
	return c
}
